// Asks with grpc-go, as grpcurl does, and says what it hears: each service with its methods, from the
// descriptors that the daemon tells on one stream, and its health. Argument: the socket.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/golang/protobuf/proto"
	"github.com/golang/protobuf/protoc-gen-go/descriptor"
	"google.golang.org/grpc"
	health "google.golang.org/grpc/health/grpc_health_v1"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

type asker struct {
	stream reflection.ServerReflection_ServerReflectionInfoClient
}

func (a asker) ask(request *reflection.ServerReflectionRequest) *reflection.ServerReflectionResponse {
	check(a.stream.Send(request))
	reply, err := a.stream.Recv()
	check(err)
	return reply
}

func (a asker) fileOf(symbol string) (*descriptor.FileDescriptorProto, *reflection.ErrorResponse) {
	reply := a.ask(&reflection.ServerReflectionRequest{
		MessageRequest: &reflection.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol}})
	file := &descriptor.FileDescriptorProto{}
	for _, bytes := range reply.GetFileDescriptorResponse().GetFileDescriptorProto() {
		check(proto.Unmarshal(bytes, file))
	}
	return file, reply.GetErrorResponse()
}

func main() {
	connection, err := grpc.Dial("unix:"+os.Args[1], grpc.WithInsecure())
	check(err)
	defer connection.Close()
	patience, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()

	stream, err := reflection.NewServerReflectionClient(connection).ServerReflectionInfo(patience)
	check(err)
	a := asker{stream}
	list := a.ask(&reflection.ServerReflectionRequest{
		MessageRequest: &reflection.ServerReflectionRequest_ListServices{ListServices: "*"}})
	for _, service := range list.GetListServicesResponse().GetService() {
		file, refusal := a.fileOf(service.Name)
		if refusal != nil {
			log.Fatal(refusal)
		}
		for _, s := range file.GetService() {
			for _, m := range s.GetMethod() {
				fmt.Printf("%s/%s(%s)\n", service.Name, m.GetName(), m.GetInputType())
			}
		}
	}
	_, refusal := a.fileOf("completion.v1.Nothing")
	fmt.Println("Nothing:", refusal.GetErrorCode())
	check(stream.CloseSend())

	watch, err := health.NewHealthClient(connection).Watch(patience, &health.HealthCheckRequest{})
	check(err)
	state, err := watch.Recv()
	check(err)
	fmt.Println("health:", state.GetStatus())
}
